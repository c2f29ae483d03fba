"""Procedures: what the engine carries out, step by step."""
