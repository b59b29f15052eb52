"""Audience Manager's receipt of a batch, an e-mail, against what the ledger says was delivered."""
