"""`simpletune report`: one page about a run, or several compared, made from what lies in their folders. No torch."""
