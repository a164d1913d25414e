"""What stands between the round loop and the sites: Flower's SuperLink, the depot, and the gates before both."""
