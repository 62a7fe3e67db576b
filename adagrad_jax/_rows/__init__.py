"""Gradients of tables of which only some rows were read."""
