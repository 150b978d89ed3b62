"""What only a run needs: the training loop, checkpoints, ranks, plans, and all that tells of it.

The model's own rooms are one floor up.  Public names are imported from `tricycle_gpt`.
"""
