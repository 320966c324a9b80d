"""Fine-tune language models from one declarative recipe; nothing is silent."""
