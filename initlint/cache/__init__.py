"""Results kept between runs: what a file was found to be need not be worked out again.

Off unless asked for, since by default nothing is written anywhere. An entry is data that is checked
when it is read; whatever is wrong with it makes it a miss.
"""
