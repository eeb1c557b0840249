"""Folders of other frameworks: tables that say what their files hold, in the names of transformers."""
