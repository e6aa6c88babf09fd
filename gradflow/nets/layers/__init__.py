"""The layers that the nets are made of."""
