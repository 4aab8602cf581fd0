"""The matrix: subjects x protections x budgets x purifiers x trainers x prompts x seeds, planned, run and compared."""
