// qnext train: so far, the report of a run.
#include "cli/commands.h"

namespace qnext::cli {

void add_train_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("train", "training runs");
  command->require_subcommand(1);
  add_train_report_command(*command, action);
}

}  // namespace qnext::cli
