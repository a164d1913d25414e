"""The joint sum: a round's updates that open as one sum for all who promised to be in it, or for nobody.

TRAIN, MASK, OPEN. A site promises to be in a round's sum. It then sends its update under its own mask and under one
mask with each other site of the list. Last it gives away the key of its own mask, for one list of a round, ever.
The parts are standard (Bonawitz et al., CCS 2017: double masks, signed keys; Pasquini et al., CCS 2022: keys bound to
what is summed). Their composition without shares and threshold is this project's own; nobody has reviewed it yet.

Nothing here reads or writes a file, or knows a network or a framework. Import the modules: this loads nothing.

- `promise`: what a site signs for a round; `sum_list`: the promises of one sum, its transcript, what a site checks.
- `masks`: the streams that are added; `round_secrets`: a site's secrets of a round and the keys that follow from them.
- `fixed_point`: updates as integers whose sums are exact.
- `site_sum`: what a site has promised, masked and opened, and what it may do next.
- `joint_sum`: the server's sum, one vector at a time.
"""
