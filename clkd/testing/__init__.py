"""What plugin authors test with: the laws that parts keep, a stream that trains in a moment, and pytest fixtures."""
