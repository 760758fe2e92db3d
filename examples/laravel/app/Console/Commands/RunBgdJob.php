<?php

namespace App\Console\Commands;

use Illuminate\Console\Command;
use ReflectionClass;
use Throwable;

/**
 * The runner of jobs in a Laravel application: [runners.php] argv = ["php", "artisan", "bgd:run"].
 *
 * For php::App\Jobs\Name, or Name@handle, it creates the object with the arguments and lets the container call
 * handle(), like a queue of Laravel. For php::App\Services\Name@method the container creates the object, and the
 * method gets the arguments; so does @handle if the constructor takes no arguments.
 */
final class RunBgdJob extends Command
{
    protected $signature = 'bgd:run';

    protected $description = 'Run the job that bgd describes on standard input';

    private const JSON = JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_PRESERVE_ZERO_FRACTION;

    public function handle(): int
    {
        $job = json_decode(stream_get_contents(STDIN), true, 512, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
        [$class, $method] = explode('@', $job['target'], 2) + [1 => 'handle'];
        $problem = $this->problemWith($class, $method);
        if ($problem !== null) {
            return $this->tell(['refused' => $problem]);
        }
        try {
            return $this->tell(['ok' => $this->called($class, $method, [...$job['args'], ...$job['kwargs']])]);
        } catch (Throwable $error) {
            fwrite(STDERR, "$error\n");

            return $this->tell(['error' => $this->toldOf($error)]);
        }
    }

    private function called(string $class, string $method, array $arguments): mixed
    {
        $hasData = (new ReflectionClass($class))->getConstructor()?->getNumberOfParameters() > 0;
        if ($method === 'handle' && $hasData) {
            return $this->laravel->call([new $class(...$arguments), $method]);
        }
        $object = $this->laravel->make($class);

        return $arguments ? $object->$method(...$arguments) : $this->laravel->call([$object, $method]);
    }

    /**
     * The allow-list of bgd compares text, letter for letter. PHP ignores the case of names, so this checks what
     * the text means.
     */
    private function problemWith(string $class, string $method): ?string
    {
        if (! class_exists($class)) {
            return "there is no class $class";
        }
        $found = new ReflectionClass($class);
        if ($found->getName() !== $class || ! $found->isInstantiable() || $found->isInternal()) {
            return "$class is another name of {$found->getName()}, or no class of the application";
        }
        if (! $found->hasMethod($method)) {
            return "$class has no method $method";
        }
        $call = $found->getMethod($method);
        if ($call->getName() !== $method || ! $call->isPublic() || $call->isStatic() || $call->isInternal()) {
            return "$class@$method is no public method of an object";
        }

        return null;
    }

    private function toldOf(Throwable $error): array
    {
        return [
            'type' => $error::class,
            'message' => $error->getMessage(),
            'traceback' => "{$error->getFile()}:{$error->getLine()}\n{$error->getTraceAsString()}",
            'bases' => array_values(class_parents($error)),
        ];
    }

    private function tell(array $document): int
    {
        $text = json_encode($document, self::JSON | (isset($document['error']) ? JSON_INVALID_UTF8_SUBSTITUTE : 0));
        file_put_contents('php://fd/'.getenv('BGD_RESULT_FD'), $text);

        return array_key_exists('ok', $document) ? self::SUCCESS : self::FAILURE;
    }
}
