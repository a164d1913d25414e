"""Differential privacy at a site: the only importer of Opacus. Import the modules: this loads nothing.

- `training`: private training of one round; `gate`: what is compared before any film is touched.
- `gradients`, `layers`, `convolution`, `units`: clipped sums of units' gradients from one backward pass.
- `noise`, `sampling`, `optimizer`, `gaussian`: the mechanism.
- `accounting`: what it costs; `ledger`, `chain`: what a site has spent, on disk.
- `scores`: figures with noise.
- `loop_test`, `network_test`, `canaries`, `measurement`: the privacy test, of all this as it runs.
"""
