"""The engine: runs, stages, units and steps; pure decisions, a journal and the loop that carries them out."""
