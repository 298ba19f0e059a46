"""Pure search: tensors in, hypotheses out."""
