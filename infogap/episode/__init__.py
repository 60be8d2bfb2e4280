"""What an episode is, in text and images: protocol, crop tool, environment, answer matching, rewards.

Nothing here holds a tensor. ``protocol`` writes and reads the policy's text, ``tool`` cuts crops, ``environment`` plays
one episode turn by turn, ``matching`` compares answers and ``rewards`` scores a finished episode.
"""
