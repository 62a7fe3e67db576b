"""What Adagrad remembers of the gradients it has seen: one file for each form."""
