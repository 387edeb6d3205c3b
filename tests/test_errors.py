from fast_electra.errors import first_line


def test_the_reason_of_an_error_is_the_first_line_that_says_something():
    assert first_line(ValueError("\n  no   such column:\nmore")) == "no such column"
    assert first_line(OSError("backend='inductor' raised:\nOutOfSpace: full.")) == "OutOfSpace: full"
    assert len(first_line(ValueError("x" * 1000))) == 200
    assert first_line(ValueError()) == "ValueError"
