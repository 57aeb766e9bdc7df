"""What plugin authors test with: the laws that losses, memories and transfer strategies keep."""
