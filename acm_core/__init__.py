"""Federated training of chest X-ray models: what the server, the sites and simulations have in common.

Import the packages and modules: this loads nothing. Each knows those that stand below it alone, which a contract in
`pyproject.toml` holds; the tree of all exceptions stands in docs/REFERENCE.md.

- `export`, `deployment`: a trained model as a folder, and in forms that others can use.
- `secure_aggregation`: a round's updates as one sum that opens for all who promised it, or for nobody.
- `privacy`: DP-SGD, its accountants, the ledger and the test of what it promises.
- `trust`: keys, certificates, and the files with which a site joins.
- `audit_log`, `audit_commands`, `audit_events`: what either side writes down of the other.
- `training`: a round at a site, and how well a model does there.
- `data`: a site's films and labels.
- `nn`, `ops`: the classifier, and its attend-and-compare module as one operation.
- `federated`: messages, encoding, the gate for updates, rules of aggregation; no network and no framework.
- `config`: the settings of a federation and of a site.
- `arrays`, `figures`, `groups`, `histograms`, `shortcuts`, `hash_chain`: what several of these speak of.
- `command`: how a command runs as a program; `checks`: what has to be right before it can.
- `bundle`, `fleet`, `installation`, `processes`, `proxies`, `randomness`, `vocabulary`: what knows nothing of the
  others but `files`.
"""
