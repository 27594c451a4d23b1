#pragma once
#include <string>
#include <string_view>

namespace qnext {

/// Unicode normalization form C of well-formed UTF-8, equal to the `tokenizers` library's whatever utf8proc is
/// installed: that library's tables end with Unicode 9.0, and what newer versions would compose or reorder is left as
/// it is (unicode_tables.inc). Returns `text` itself when nothing in it can change, else a view of `storage`, which
/// is overwritten. Time is linear but for sorting runs of combining marks.
std::string_view normalize_nfc(std::string_view text, std::string& storage);

}  // namespace qnext
