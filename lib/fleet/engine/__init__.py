"""The engine: runs, stages, targets and steps; pure decisions, a journal and the loop that carries them out."""
