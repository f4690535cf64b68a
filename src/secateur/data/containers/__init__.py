"""Audio files as libsndfile reads them rightly: containers walked where their headers do not tell how long they are."""
