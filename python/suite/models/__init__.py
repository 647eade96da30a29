"""Model families with the parameter names of transformers, so that a checkpoint is a transformers folder."""
