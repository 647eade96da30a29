"""Floor 1: what goes to the Hugging Face Hub and comes back from it. Imports base only."""
