"""How models are fine-tuned: the loop that trainers and surrogates share, its optimizer, new words, its memory."""
