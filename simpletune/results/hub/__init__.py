"""Finished runs on the Hugging Face hub.

    destination   where a run goes: who is logged in, what they may write, the repository
    contents      what goes there: adapter, card, pictures, the settings without anything private
    upload        one commit, tried again where that helps, sending only what isn't there
    refusals      what the hub's errors mean for a person, and which of them may pass
    share         the end of a training: the card, and the upload where it is asked for

No token is ever part of a text, and none is read from the files.
"""
