"""Tickets that leave ltx: a folder with the weights, a loader in plain torch, and a card that says what they are."""
