"""Measurements of mailflow and its peers, with the bars they are held to; `make bench` runs them."""
