"""The paper's study on text: Algorithm 1 on a language model, one question a file."""
