"""From finished runs to what a hospital is told of private training before it begins."""
