#pragma once
#include <filesystem>
#include <memory>
#include <string>

namespace qnext::cli {

/// Reads lines from stdin: on a terminal with libedit (arrows, history, emacs keys or ~/.editrc), elsewhere plainly.
/// A line that ends in a backslash continues on the next one.
class LineEditor {
 public:
  enum class Outcome { kLine, kInterrupted, kEnd };

  /// `history` is read now and written after every line; its directory is created. Empty: no history file.
  explicit LineEditor(std::filesystem::path history);
  ~LineEditor();

  /// kInterrupted: Ctrl-C was pressed and what was typed is dropped. kEnd: Ctrl-D on an empty line, or end of input.
  Outcome read(const std::string& prompt, std::string& line);

 private:
  struct Terminal;
  Outcome read_physical(const std::string& prompt, std::string& line);
  std::unique_ptr<Terminal> terminal_;  ///< null when stdin is not a terminal
};

/// $XDG_STATE_HOME/qnext/history, or ~/.local/state/qnext/history; empty without a home.
std::filesystem::path history_path();

}  // namespace qnext::cli
