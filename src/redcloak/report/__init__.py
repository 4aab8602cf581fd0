"""What an audit found: one verdict, red flags, intervals and pictures, on one self-contained page."""
