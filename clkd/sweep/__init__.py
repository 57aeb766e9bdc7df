"""Many runs of one scenario: a grid of settings or random ones, each a `clkd run` of its own."""
