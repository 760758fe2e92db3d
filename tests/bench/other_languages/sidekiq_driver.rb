# Hands jobs of Sidekiq over, as drive.mjs does, by threads in place of coroutines. Its workers load this file, too.

require "sidekiq"

Sidekiq.default_configuration.logger.level = Logger::ERROR
redis = { path: ENV.fetch("REDIS_SOCKET") }
Sidekiq.configure_client { |config| config.redis = redis.merge(size: 64) }
Sidekiq.configure_server { |config| config.redis = redis }

class Nothing
  include Sidekiq::Job

  DONE = File.open(ENV["DONE_FILE"], "a").tap { |file| file.sync = true } if ENV["DONE_FILE"]

  def perform
    DONE.write(".")
  end
end

unless Sidekiq.server?
  task, first, each = ARGV[0], ARGV[1].to_i, ARGV[2].to_i
  Nothing.perform_async
  puts "ready"
  $stdout.flush
  $stdin.gets
  if task == "many"
    Nothing.perform_bulk([[]] * first)
  else
    Array.new(first) { Thread.new { each.times { Nothing.perform_async } } }.each(&:join)
  end
  puts "done"
end
