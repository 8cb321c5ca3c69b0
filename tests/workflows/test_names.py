"""Names as an operator types them."""

from workflows.conduct import spelled_out


def test_a_name_fits_into_one_line() -> None:
    assert spelled_out("everyone/shop.or\nder\x1b") == r"everyone/shop.or\nder\x1b"
    assert spelled_out("jeder/shop.größe €") == "jeder/shop.größe €"


def test_a_line_break_and_its_escape_are_two_names() -> None:
    assert len({spelled_out("a\nb"), spelled_out(r"a\nb"), spelled_out("a\\\nb"), spelled_out(r"a\\nb")}) == 4
