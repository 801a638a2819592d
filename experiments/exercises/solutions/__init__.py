"""An answer to each exercise, and why it is one; read them after your own."""
