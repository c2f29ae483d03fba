"""The vocabulary of procedures: gates, brackets and acts, each with what it needs to know of the world."""
