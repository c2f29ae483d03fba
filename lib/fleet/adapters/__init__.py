"""The edges: each package talks to one kind of neighbour, and knows none of the others."""
