"""What server and sites say to each other and what becomes of it, without a network or a framework.

Import the modules: this loads nothing.

- `messages`: tasks and replies; `payload`: these as files; `envelope`: what Flower carries of them.
- `report`: what a site says of models on its own films; `cohort`: whose films a model learnt from.
- `encoding`: a model as the difference to one that both sides have.
- `update`: what a site sends, and the gate that it has to pass.
- `rule`: what every rule of aggregation shares; `robust` chooses one of `aggregation`, `norm_clipping`,
  `order_statistics` and `krum`; `summation` is exact whatever the order.
- `server_step`: how a round's aggregate becomes the next global model.
"""
