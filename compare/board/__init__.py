"""What a run leaves behind and how it is looked at: curves, pictures, pages, the record."""
