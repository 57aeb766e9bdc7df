"""A scenario that trains in a blink, as a file's text."""

TINY = """\
name: tiny
stream: {dataset: {name: digits, rows_per_class: 10}, split: {by: class, experiences: 2}}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
train: {batch_size: 10, optimizer: {kind: sgd, lr: 0.1}}
tracking: {mode: off}
"""
