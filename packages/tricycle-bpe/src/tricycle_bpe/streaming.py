"""Decoding one id at a time, as a model writes them, without ever showing half a character.

A character outside ASCII takes two to four bytes, and they may be spread over several tokens. The
decoder keeps the bytes of an unfinished character until the rest of it arrives.
"""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turn ids into text as they come.

    >>> from tricycle_bpe import StreamDecoder, Tokeniser
    >>> decoder = StreamDecoder(Tokeniser.train(["abc"], vocab_size=256, ties="bytes"))
    >>> [decoder.push(id) for id in "é!".encode()]
    ['', 'é', '!']
    """

    def __init__(self, tokeniser, errors: str = "replace"):
        self._bytes_of: Callable[[list[int]], bytes] = tokeniser.decode_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, id: int) -> str:
        """Take one more id; return the characters it completes, perhaps none.

        raises  UnicodeDecodeError, if errors is "strict". The bytes that are no character are then
                forgotten, and those after them come with the next id
        """
        try:
            return self._decoder.decode(self._bytes_of([id]))
        except UnicodeDecodeError as error:
            self._decoder.setstate((error.object[error.end :], 0))
            raise

    def finish(self) -> str:
        """End the text: whatever was still incomplete comes out as U+FFFD, and the decoder is
        new.

        raises  UnicodeDecodeError, if errors is "strict"; the decoder is new all the same
        """
        try:
            return self._decoder.decode(b"", final=True)
        finally:
            self._decoder.reset()
