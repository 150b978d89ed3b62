"""Tensors that remember how they were made."""
