"""The stages that touch a network, `ser fit | validate | test | predict`: LightningCLI, and what differs in it."""
