"""Does comparing help? Films that only a comparison of the two lungs decides, and films that one place decides."""
