"""Runs the code of the documentation: every block of Python and shell, page by page, in one process.

``blocks`` finds the code of a page, ``exempt`` lists the commands that are checked but not run, ``given`` makes what a
page takes for granted (a model, a folder of pictures, the results of an earlier page), and ``run`` runs pages.
"""
