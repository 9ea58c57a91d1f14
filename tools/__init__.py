"""What made parts of the package; not shipped with it."""
