"""Results to text, JSON, JUnit, Markdown and HTML; a file per form."""
