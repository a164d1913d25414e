"""What stands between a site and the server: Flower's SuperNode, a gateway, the depot's and worker's calls."""
