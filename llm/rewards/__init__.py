"""What a response is worth: rewards that are programs, models, or judges."""
