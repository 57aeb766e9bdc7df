"""Published tables as data, and the runs that put clkd's numbers beside them."""
