"""Small building blocks without domain knowledge."""
